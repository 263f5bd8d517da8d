"""What people look at: pages, figures' style, commands."""
