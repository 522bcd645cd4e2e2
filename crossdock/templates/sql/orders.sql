CREATE TABLE orders (
    id integer PRIMARY KEY,
    country text NOT NULL,
    amount numeric(10, 2) NOT NULL,
    region text,
    updated_at timestamp NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now'))
);
CREATE INDEX orders_by_change ON orders (updated_at, id);
INSERT INTO orders (id, country, amount) VALUES (1, 'DE', 12.5), (2, 'US', 99), (3, 'JP', 7.25), (4, 'BR', 40);
