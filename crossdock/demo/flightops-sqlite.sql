-- The airline's flight database on SQLite, for the smallest tests; see flightops.py.
CREATE TABLE flights (
    id bigint PRIMARY KEY, carrier text NOT NULL, flight int NOT NULL, tailnum text, origin text NOT NULL,
    dest text NOT NULL, distance int NOT NULL, sched_dep timestamp NOT NULL, sched_arr_time int,
    dep_time int, dep_delay int, arr_time int, arr_delay int, air_time int,
    delay_risk double precision CHECK (delay_risk BETWEEN 0 AND 1), delay_band text, delay_model text,
    updated_at timestamp NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);
CREATE INDEX flights_by_change ON flights (updated_at, id);
CREATE TABLE flight_versions (number integer PRIMARY KEY, id bigint NOT NULL, updated_at timestamp NOT NULL);
CREATE TABLE effects (id bigint NOT NULL, replaced timestamp NOT NULL, write_id text,
                      delay_risk double precision, delay_band text, delay_model text);
CREATE TABLE crossdock_applied (write_id text PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP);

CREATE TRIGGER logged_insert AFTER INSERT ON flights
    BEGIN INSERT INTO flight_versions (id, updated_at) VALUES (NEW.id, NEW.updated_at); END;
CREATE TRIGGER changed AFTER UPDATE ON flights WHEN NEW.updated_at = OLD.updated_at
BEGIN
    UPDATE flights SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE id = NEW.id;
    INSERT INTO flight_versions (id, updated_at) SELECT id, updated_at FROM flights WHERE id = NEW.id;
    INSERT INTO effects
        SELECT NEW.id, OLD.updated_at,
               -- No transaction has a name here: it is the newest of the ledger's rows that explains no effect yet.
               (SELECT write_id FROM crossdock_applied WHERE write_id LIKE '%/flightops/flights/' || NEW.id || '@%'
                AND write_id NOT IN (SELECT write_id FROM effects WHERE write_id IS NOT NULL)
                ORDER BY rowid DESC LIMIT 1), NEW.delay_risk, NEW.delay_band, NEW.delay_model
        WHERE (OLD.delay_risk, OLD.delay_band, OLD.delay_model) IS NOT (NEW.delay_risk, NEW.delay_band, NEW.delay_model);
END;
