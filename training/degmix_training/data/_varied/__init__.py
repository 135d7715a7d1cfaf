"""The varied renderer: rooms, tables, portraits and outdoor views, ray cast in numpy."""
