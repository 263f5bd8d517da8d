"""What people look at: reports, the commands made of them, and the style of figures."""
