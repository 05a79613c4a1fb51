"""The page that people see at `/`: one template, its texts in each language, and small modules of script."""
