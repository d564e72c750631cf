-- What the role that walcast connects as may do. No parameters.
-- By hand, as that role: psql "$DATABASE_URL" -f sql/role.sql
--
-- On Amazon RDS and Aurora nobody but the provider has the REPLICATION attribute: membership in rds_replication
-- stands for it. Elsewhere (Supabase, Neon, Cloud SQL, Azure) the attribute itself is granted.
SELECT
    current_user::text AS name,
    r.rolsuper AS is_superuser,
    r.rolreplication AS has_replication,
    r.rolbypassrls AS has_bypassrls,
    EXISTS (
        SELECT FROM pg_roles p
        WHERE p.rolname IN ('rds_replication', 'rds_superuser') AND pg_has_role(p.oid, 'MEMBER')
    ) AS has_provider_replication,
    has_database_privilege(current_database(), 'CREATE') AS can_create_publication
FROM pg_roles r
WHERE r.rolname = current_user;
