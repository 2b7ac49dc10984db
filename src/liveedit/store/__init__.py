"""The folder of edits: its listing, and the conflicts between edits."""
