"""Queries, settings and measurements that several test modules share."""
