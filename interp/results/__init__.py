"""What comes out: numbers by head with errors and where they came from, and their files."""
