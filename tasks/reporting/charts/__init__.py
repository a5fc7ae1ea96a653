"""Charts as inline SVG: each takes what it draws and a width in pixels, and returns markup."""
