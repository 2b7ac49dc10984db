"""What a folder of edits holds."""
