"""What weights compute, and how heads are wired."""
