"""What happens to every request: who asks, how often, what is logged and answered."""
