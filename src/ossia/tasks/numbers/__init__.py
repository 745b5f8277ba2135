"""Tasks about numbers: arithmetic, word problems, the calculator, follow-up questions."""
