"""What a text answers: plain characters, then statements, then numbers or choices in them."""
