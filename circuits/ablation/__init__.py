"""What happens without heads."""
