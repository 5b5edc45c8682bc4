"""What people look at while work runs and after it: progress bars, tables and pages."""
