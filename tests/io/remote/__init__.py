"""Tests of remote sources and destinations; all traffic stays on the loopback interface."""
