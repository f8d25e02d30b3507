"""The studies: command lines, run records, figures and reports on top of jaxfair."""
