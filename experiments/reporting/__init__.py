"""How numbers become text, tables, figures and pages; knows no study."""
