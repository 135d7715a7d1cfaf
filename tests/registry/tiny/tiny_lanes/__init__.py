"""One entry of every kind that another distribution can add to degmix-edge."""
