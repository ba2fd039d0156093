"""What lit-storage costs, side by side with what people use instead. Run it with `make bench`."""
