"""What the conformance tests stand on: a server process, model repositories in text, requests on the wire."""
