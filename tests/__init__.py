"""The tests of inflate; their folders mirror the package."""
