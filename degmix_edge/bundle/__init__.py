"""The bundle, a folder that a robot opens: manifest, files, golden check and card."""
