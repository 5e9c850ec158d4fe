"""Floor 2: layers. Parameters are declared as data; arrays come from outside."""
