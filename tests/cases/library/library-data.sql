INSERT INTO languages (name) VALUES ('English'), ('Deutsch'), ('日本語');
INSERT INTO members (full_name, "fullName", email, "_sync", invited_by, seen_at)
SELECT 'Member ' || n, nullif(n % 3, 0)::text, nullif('m' || n || '@example.org', 'm7@example.org'), 'own', nullif(n - 1, 0),
       timestamptz '2024-02-29 23:59:59.999+00' + n * interval '1 microsecond'
FROM generate_series(1, 40) n;
INSERT INTO branches (town, head) SELECT 'Town ' || n, n FROM generate_series(1, 5) n;
UPDATE members SET favourite_branch = 1 + id % 5 WHERE id % 2 = 0;
INSERT INTO books (isbn, title, published, language, original_language, state, tags, price, cover, details)
SELECT nullif('978-' || n, '978-3'), 'Title ' || n, 1900 + n, 1 + n % 3, nullif(n % 4, 0),
       (enum_range(NULL::condition))[1 + n % 3], ARRAY['tag ' || n % 5, NULL], n / 7.0, '\x00ff'::bytea,
       jsonb_build_object('n', n, 'of', ARRAY[1.5, n])
FROM generate_series(1, 60) n;
INSERT INTO authors (name) SELECT 'Author ' || n FROM generate_series(1, 12) n;
INSERT INTO book_authors
SELECT b.book_id, a.author_id FROM books b
CROSS JOIN LATERAL (SELECT author_id FROM authors ORDER BY md5(author_id::text || b.book_id) LIMIT 1 + b.book_id % 3) a;
INSERT INTO book_chapters SELECT book_id, n, 'Chapter ' || n FROM books, generate_series(1, 4) n;
INSERT INTO member_phones (member_id, phone) SELECT id, '+49 ' || id FROM members WHERE id % 3 = 0;
INSERT INTO copies SELECT book_id, n, 'S' || n, 1 + book_id % 5 FROM books, generate_series(1, 2) n;
INSERT INTO repairs (book_id, copy, cost) SELECT book_id, nullif(copy, 2), 12.5 FROM copies WHERE book_id % 5 = 0;
INSERT INTO loans (loaned_at, member_id, book_id)
SELECT timestamptz '2023-11-01 00:00:00.123456+00' + n * interval '5 days', 1 + n % 40, 1 + n % 60
FROM generate_series(1, 100) n;
INSERT INTO notices (body) VALUES ('Closed on Monday');
INSERT INTO urgent_notices (body, until) VALUES ('Open on Monday', '2024-02-29');
INSERT INTO visits VALUES ('2024-02-29 12:00', 'north');
INSERT INTO opening_hours SELECT b, d, '09:00' FROM generate_series(1, 5) b, generate_series(1, 5) d;
INSERT INTO "Ma""gasin d'été"."Käse & ""Brot"", frisch" VALUES (1, 3.3, NULL), (2, 'NaN', 'y');
INSERT INTO "Ma""gasin d'été".books VALUES ('a', 'n'), ('ä', NULL);
INSERT INTO "arch.ive"."old.books" VALUES (1);
ANALYZE;
