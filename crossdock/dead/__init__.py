"""Dead letters from outside: looking at them, and asking for something to be done with them."""
