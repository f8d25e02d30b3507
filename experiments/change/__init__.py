"""Two sets of predictions from files, of any framework: who lost more than whom."""
