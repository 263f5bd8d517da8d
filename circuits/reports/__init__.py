"""What the command lines run, print and write: a page of figures and tables, and the results as files."""
