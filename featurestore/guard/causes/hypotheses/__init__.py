"""One module per cause, named like it. Each proposes the assumptions under which its cause is proven."""
