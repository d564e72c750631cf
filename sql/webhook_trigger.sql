-- Optional, for walcast with a [schedule]: a write calls walcast's webhook, so that the next run begins at once and not when
-- it is due. Needs the extension pg_net (Supabase has it): CREATE EXTENSION pg_net.
-- Run it as a superuser or as the tables' owner who may CREATE in the database, after editing the two marked places:
-- url and secret, and the triggers at the end.
-- pg_net sends after the commit, from a process of its own: a write neither waits for walcast nor fails because of it.

CREATE SCHEMA IF NOT EXISTS walcast_webhook;
REVOKE ALL ON SCHEMA walcast_webhook FROM PUBLIC;

-- Whoever may read this table may steer walcast. With Supabase's Vault, let the function below read the secret from
-- vault.decrypted_secrets instead.
CREATE TABLE IF NOT EXISTS walcast_webhook.target (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    url text NOT NULL,
    secret text NOT NULL
);
REVOKE ALL ON walcast_webhook.target FROM PUBLIC;

INSERT INTO walcast_webhook.target (url, secret)
VALUES ('https://walcast.example.com/webhook', 'the secret of [admin]') -- edit this
ON CONFLICT (is_only) DO UPDATE SET url = excluded.url, secret = excluded.secret;

-- One call for each transaction, whatever it writes: the last one's number is kept in a setting that ends with it.
CREATE OR REPLACE FUNCTION walcast_webhook.call() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    called constant text := pg_catalog.current_setting('walcast.called', true);
    transaction constant text := pg_catalog.pg_current_xact_id()::text;
BEGIN
    IF called IS DISTINCT FROM transaction THEN
        PERFORM pg_catalog.set_config('walcast.called', transaction, true);
        PERFORM net.http_post(
            url := target.url,
            body := '{}'::jsonb,
            headers := pg_catalog.jsonb_build_object(
                'content-type', 'application/json', 'x-webhook-signature', target.secret
            )
        )
        FROM walcast_webhook.target;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    -- The write matters more. The next run comes when it is due.
    RAISE WARNING 'walcast was not called: %', SQLERRM;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION walcast_webhook.call() FROM PUBLIC;

-- One for each replicated table; edit this. To remove it all: DROP SCHEMA walcast_webhook CASCADE.
CREATE OR REPLACE TRIGGER walcast_webhook
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON public.apps
FOR EACH STATEMENT EXECUTE FUNCTION walcast_webhook.call();
