"""The Hugging Face Hub: uploading a folder with its model card, and getting it back."""
