-- The fence table: the greatest fencing token that each resource has seen. `lockd fence init` makes
-- it, or your migrations do. Found by the search_path. Whoever writes under a lock needs SELECT,
-- INSERT and UPDATE on it.
CREATE TABLE IF NOT EXISTS lockd_fence (
    resource   text        PRIMARY KEY,
    token      bigint      NOT NULL CHECK (token > 0),
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50); -- room to update a row in its page: each fenced transaction updates one
