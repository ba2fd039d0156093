"""What a process shows and asks for: tokens, certificates, and the files that hold them."""
