"""The contract that every VLM has to fulfil, as named checks by topic.

``contract`` lists all checks in order; ``probe`` holds those that run when a model is loaded.
"""
