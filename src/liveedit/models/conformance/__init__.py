"""What every family of VLMs must do, by topic, and the probe of it that runs when a model is
loaded.
"""
