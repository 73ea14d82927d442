"""Pages for people: what runs, what is on trial, what has drifted, and why. They read, and change nothing."""
