"""Reports for people: one self-contained HTML page, and a contact sheet as PNG."""
