"""What people look at while work runs and after it: tables, pages and curves."""
