"""For those who write backends: a fake one, and the contract that every backend must keep."""
