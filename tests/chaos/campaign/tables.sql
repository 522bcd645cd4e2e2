-- The campaign's tables. Every committed version and every effect is logged by a trigger, in the same transaction.
CREATE TABLE orders (id bigint PRIMARY KEY, region text NOT NULL, amount int NOT NULL, stock int NOT NULL,
                     label text CHECK (label NOT LIKE 'poison%'), rest int,
                     updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX orders_by_change ON orders (updated_at, id);
CREATE TABLE order_versions (number bigserial PRIMARY KEY, id bigint, region text, amount int, stock int,
                             updated_at timestamptz);
CREATE TABLE order_effects (number bigserial PRIMARY KEY, id bigint, replaced timestamptz, write_id text,
                            label text, rest int, at timestamptz DEFAULT clock_timestamp());

CREATE TABLE notices (id bigint PRIMARY KEY, region text NOT NULL, amount int NOT NULL, stock int NOT NULL,
                      updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX notices_by_change ON notices (updated_at, id);
CREATE TABLE notice_versions (number bigserial PRIMARY KEY, id bigint, region text, amount int, stock int,
                              updated_at timestamptz);
CREATE TABLE copies (id bigint PRIMARY KEY, label text CHECK (label NOT LIKE 'poison%'), rest int, source_version text);
CREATE TABLE copy_effects (number bigserial PRIMARY KEY, id bigint, source_version text, write_id text,
                           label text, rest int, at timestamptz DEFAULT clock_timestamp());

CREATE FUNCTION touched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touched();
CREATE TRIGGER touched BEFORE UPDATE ON notices FOR EACH ROW EXECUTE FUNCTION touched();

CREATE FUNCTION order_logged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_versions (id, region, amount, stock, updated_at)
        SELECT id, region, amount, stock, updated_at FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER logged AFTER INSERT ON orders REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION order_logged();

CREATE FUNCTION order_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO order_versions (id, region, amount, stock, updated_at)
        SELECT id, region, amount, stock, updated_at FROM new_rows;
    -- The write's id is that ledger row of this very transaction whose key is the row's.
    INSERT INTO order_effects (id, replaced, write_id, label, rest)
        SELECT o.id, o.updated_at, l.write_id, n.label, n.rest FROM old_rows o JOIN new_rows n USING (id)
        LEFT JOIN crossdock_applied l ON l.applied_at = now()
                  AND split_part(split_part(l.write_id, '/flightops/orders/', 2), '@', 1) = o.id::text
        WHERE (o.label, o.rest) IS DISTINCT FROM (n.label, n.rest);
    RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON orders REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION order_changed();

CREATE FUNCTION notice_logged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO notice_versions (id, region, amount, stock, updated_at)
        SELECT id, region, amount, stock, updated_at FROM new_rows;
    RETURN NULL;
END $$;
CREATE TRIGGER logged AFTER INSERT ON notices REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notice_logged();
CREATE TRIGGER changed AFTER UPDATE ON notices REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION notice_logged();

CREATE FUNCTION copy_logged() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO copy_effects (id, source_version, write_id, label, rest)
        SELECT n.id, n.source_version, l.write_id, n.label, n.rest FROM new_rows n
        LEFT JOIN crossdock_applied l ON l.applied_at = now()
                  AND split_part(split_part(l.write_id, '/flightops/notices/', 2), '@', 1) = n.id::text;
    RETURN NULL;
END $$;
CREATE TRIGGER logged AFTER INSERT ON copies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION copy_logged();
CREATE TRIGGER changed AFTER UPDATE ON copies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION copy_logged();
