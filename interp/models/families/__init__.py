"""What an architecture is, one file each."""
