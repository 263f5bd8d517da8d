"""What heads do on periodic series."""
