"""How well a recogniser hears and what it costs: error rates, their significance, speed and memory."""
