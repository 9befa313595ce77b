"""What leaves the process about itself: spans and figures."""
