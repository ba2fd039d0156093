"""Calls to one peer: channels, requests and answers, and the direct way of a stream."""
