"""What the attacks need: a runtime to drive, a bundle to poison, a host to watch, programs to compile."""
