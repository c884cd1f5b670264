"""Hosts that reflect their tables, ours among them, and hosts that have tables with our names."""

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.ext.automap import automap_base
from sqlalchemy.orm import Mapped, mapped_column

from flask_webhook_endpoints import RegistrationError, WebhookEndpoints
from tests.support import hosts
from tests.support.api import create_endpoint, post_endpoint
from tests.support.contract import life_of_an_endpoint
from tests.support.hosts import OUR_TABLES, attaching, client, new_app, own_schema, serving, tenant_header

pytestmark = pytest.mark.several_connections


@pytest.fixture
def started(database):
    """The URL of a database in which a first start has made our tables, and an endpoint of Acme's is."""
    host = hosts.flask_sqlalchemy(database)
    create_endpoint(host.client())
    host.close()
    return database


@pytest.fixture
def server(database):
    server = sa.create_engine(database, poolclass=sa.NullPool)
    yield server
    server.dispose()


def assert_works(app, *, known=1):
    acme, globex = client(app, "acme"), client(app, "globex")
    endpoints = acme.get("/v1/endpoints").json
    assert len(endpoints) == known
    for endpoint in endpoints:
        assert acme.get(f"/v1/endpoints/{endpoint['id']}/secret").status_code == 200
        assert acme.delete(f"/v1/endpoints/{endpoint['id']}").status_code == 204
    life_of_an_endpoint(acme, globex)


# The second start ended in "a table of this name already, which is not ours".


def test_a_host_that_reflects_before_it_makes_us_starts_twice(started, server):
    for known in (1, 0):
        db = SQLAlchemy()
        db.metadata.reflect(server)
        webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
        with serving(db, new_app(SQLALCHEMY_DATABASE_URI=started), webhooks.blueprint) as app:
            assert_works(app, known=known)


def test_a_host_that_reflects_by_flask_sqlalchemy_starts(started):
    db = SQLAlchemy()
    app = new_app(SQLALCHEMY_DATABASE_URI=started)
    db.init_app(app)
    with app.app_context():
        db.reflect()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    app.register_blueprint(webhooks.blueprint)

    assert_works(app)
    with app.app_context():
        db.create_all()
        db.engine.dispose()


def test_a_host_that_maps_its_tables_automatically_starts(started, server):
    base = automap_base()
    base.prepare(autoload_with=server)
    db = SQLAlchemy(metadata=base.metadata)
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=base.metadata)
    with serving(db, new_app(SQLALCHEMY_DATABASE_URI=started), webhooks.blueprint) as app:
        assert_works(app)
        with app.app_context():
            db.session.query(base.classes.webhook_endpoint).all()


def test_a_host_that_reflects_a_schema_starts(database, server):
    with own_schema(database) as name, attaching(database, name):
        for known in (0, 1):
            db = SQLAlchemy(metadata=sa.MetaData(schema=name))
            db.metadata.reflect(server, schema=name)
            webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
            with serving(db, new_app(SQLALCHEMY_DATABASE_URI=database), webhooks.blueprint) as app:
                assert_works(app, known=known)
                post_endpoint(client(app, "acme"))


def test_what_a_host_reflects_afterwards_stays_ours(started, server):
    db = SQLAlchemy()
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    db.metadata.reflect(server)
    again = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    for each in (webhooks, again):
        with serving(db, new_app(SQLALCHEMY_DATABASE_URI=started), each.blueprint) as app:
            assert_works(app, known=1 if each is webhooks else 0)


def test_a_reflected_table_with_a_column_more_or_an_optional_one_less_is_ours(started, server):
    # A host that added a column of its own; a schema that a newer or an older version made.
    with server.begin() as connection:
        connection.execute(sa.text("ALTER TABLE webhook_endpoint ADD COLUMN note VARCHAR(10)"))
    metadata = sa.MetaData()
    metadata.reflect(server)
    WebhookEndpoints(session=SQLAlchemy().session, tenant=tenant_header, metadata=metadata)

    metadata = sa.MetaData()
    metadata.reflect(server)
    metadata.tables["webhook_event"]._columns.remove(metadata.tables["webhook_event"].c.traceparent)
    WebhookEndpoints(session=SQLAlchemy().session, tenant=tenant_header, metadata=metadata)


def test_create_all_makes_the_tables_of_ours_that_a_reflected_schema_lacks(started, server):
    with server.begin() as connection:
        connection.execute(sa.text("DROP TABLE webhook_worker"))
    db = SQLAlchemy()
    db.metadata.reflect(server)
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)
    with serving(db, new_app(SQLALCHEMY_DATABASE_URI=started), webhooks.blueprint) as app:
        assert_works(app)
    assert set(sa.inspect(server).get_table_names()) >= OUR_TABLES


# A host with a table of its own called as one of ours


def with_its_own(db):
    class WebhookEvent(db.Model):
        __tablename__ = "webhook_event"
        id: Mapped[int] = mapped_column(primary_key=True)
        type: Mapped[str] = mapped_column(sa.String(50))
        body: Mapped[str] = mapped_column(sa.String(50))
        created_at: Mapped[str] = mapped_column(sa.String(50))

    return WebhookEvent


@pytest.mark.parametrize("reflected", [False, True])
def test_a_host_with_a_table_of_our_name_is_told_of_two_ways_out(database, server, reflected):
    db = SQLAlchemy()
    with_its_own(db)
    if reflected:
        db.metadata.create_all(server)
        db = SQLAlchemy()
        db.metadata.reflect(server)

    with pytest.raises(RegistrationError) as caught:
        WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=db.metadata)

    message = str(caught.value)
    assert "'webhook_event'" in message
    assert "MetaData(schema=" in message
    assert "bind_key" in message
    assert "webhook_endpoint" not in db.metadata.tables


def write_and_read_its_own(app, db, model):
    with app.app_context():
        db.session.add(model(type="x", body="y", created_at="z"))
        db.session.commit()
        assert [row.body for row in db.session.scalars(sa.select(model))] == ["y"]


def test_a_bind_of_their_own_keeps_them_apart(database, tmp_path):
    db = SQLAlchemy()
    model = with_its_own(db)
    # As the message and the README have it.
    ours = db.metadatas.setdefault("webhooks", sa.MetaData(info={"bind_key": "webhooks"}))
    webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=ours)
    app = new_app(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/own.db", SQLALCHEMY_BINDS={"webhooks": database})
    with serving(db, app, webhooks.blueprint):
        write_and_read_its_own(app, db, model)
        assert_works(app, known=0)
        with app.app_context():
            assert set(sa.inspect(db.engines["webhooks"]).get_table_names()) == OUR_TABLES
            assert sa.inspect(db.engine).get_table_names() == ["webhook_event"]


def test_a_schema_of_their_own_keeps_them_apart(database):
    with own_schema(database) as name, attaching(database, name):
        db = SQLAlchemy()
        model = with_its_own(db)
        ours = sa.MetaData(schema=name)
        webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=ours)
        with serving(db, new_app(SQLALCHEMY_DATABASE_URI=database), webhooks.blueprint) as app:
            with app.app_context():
                ours.create_all(db.engine)
            write_and_read_its_own(app, db, model)
            assert_works(app, known=0)
            with app.app_context():
                inspector = sa.inspect(db.engine)
                assert set(inspector.get_table_names(schema=name)) == OUR_TABLES
                assert inspector.get_table_names() == ["webhook_event"]


def test_a_host_with_one_metadata_for_all_reflects_the_schema_of_ours_too(database, server):
    with own_schema(database) as name, attaching(database, name):
        for _ in range(2):
            db = SQLAlchemy()
            ours = sa.MetaData(schema=name)
            ours.reflect(server, schema=name)
            webhooks = WebhookEndpoints(session=db.session, tenant=tenant_header, metadata=ours)
            app = Flask("host")
            app.config.update(SECRET_KEY="s", TESTING=True, SQLALCHEMY_DATABASE_URI=database)
            with serving(db, app, webhooks.blueprint):
                ours.create_all(server)
                assert_works(app, known=0)
