"""What the removal of units, modules and layers would harm, by many criteria, and the statistics that these are made of."""
