-- The airline's flight database; see flightops.py.
CREATE TABLE flights (
    id bigint PRIMARY KEY, carrier text NOT NULL, flight int NOT NULL, tailnum text, origin text NOT NULL,
    dest text NOT NULL, distance int NOT NULL, sched_dep timestamp NOT NULL, sched_arr_time int,
    dep_time int, dep_delay int, arr_time int, arr_delay int, air_time int,
    delay_risk double precision CHECK (delay_risk BETWEEN 0 AND 1), delay_band text, delay_model text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX flights_by_change ON flights (updated_at, id);
CREATE TABLE flight_versions (number bigserial PRIMARY KEY, id bigint NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE effects (id bigint NOT NULL, replaced timestamptz NOT NULL, write_id text,
                      delay_risk double precision, delay_band text, delay_model text);
CREATE TABLE crossdock_applied (write_id text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX crossdock_applied_by_time ON crossdock_applied (applied_at);

CREATE FUNCTION flights_touched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON flights FOR EACH ROW EXECUTE FUNCTION flights_touched();

CREATE FUNCTION flights_logged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO flight_versions (id, updated_at) SELECT id, updated_at FROM new_rows; RETURN NULL; END $$;
CREATE TRIGGER logged_insert AFTER INSERT ON flights REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION flights_logged();

CREATE FUNCTION flights_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO flight_versions (id, updated_at) SELECT id, updated_at FROM new_rows;
    INSERT INTO effects
        SELECT o.id, o.updated_at, l.write_id, n.delay_risk, n.delay_band, n.delay_model
        FROM old_rows o JOIN new_rows n USING (id)
        -- Ledger rows of this very transaction. A write id is <prefix>/<pipeline>/<write-back>/<system>/<object>/<key>@..;
        -- keys are compared as text, as other tables' rows in the ledger need not be numbered.
        LEFT JOIN crossdock_applied l ON l.applied_at = now()
                  AND split_part(split_part(l.write_id, '/flightops/flights/', 2), '@', 1) = o.id::text
        WHERE (o.delay_risk, o.delay_band, o.delay_model) IS DISTINCT FROM (n.delay_risk, n.delay_band, n.delay_model);
    RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON flights REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION flights_changed();
