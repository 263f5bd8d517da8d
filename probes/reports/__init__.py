"""What the command lines write: pages, tables and pictures, one file a report."""
