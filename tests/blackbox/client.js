// A client of the hypervisor's socket, written from what `xbd protocol --json` prints and nothing else.
//
//     node client.js PROTOCOL.json SOCKET
//
// It checks what it sends and what it gets against the description's JSON Schemas, and prints a JSON object of what it saw.

"use strict";

const fs = require("fs");
const net = require("net");
const { encode, decodeMultiStream } = require("@msgpack/msgpack");

const [REQUEST, RESPONSE, NOTIFICATION] = [0, 1, 2];
const described = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const toolstack = described.sockets["hypervisor.sock"];

const typeOf = (value) => {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return Number.isInteger(value) ? "integer" : typeof value;
};

// The keywords of JSON Schema that the description uses; throws at the first that does not hold.
function check(schema, value, where) {
  const fail = (why) => { throw new Error(`${where}: ${JSON.stringify(value)} ${why}`); };
  if (schema.$ref) return check(described.$defs[schema.$ref.split("/").pop()], value, where);
  if (schema.format === "bin") return value instanceof Uint8Array || fail("is no bin");
  if (schema.anyOf) {
    const holds = schema.anyOf.some((one) => { try { check(one, value, where); return true; } catch { return false; } });
    return holds || fail("is none of the kinds");
  }
  if ("const" in schema && value !== schema.const) fail(`is not ${schema.const}`);
  if (schema.enum && !schema.enum.includes(value)) fail(`is none of ${schema.enum}`);
  const type = typeOf(value);
  const kinds = [].concat(schema.type ?? type);
  if (!kinds.includes(type) && !(type === "integer" && kinds.includes("number"))) fail(`is not of type ${kinds}`);
  if (typeof value === "number" && !(value >= (schema.minimum ?? value) && value <= (schema.maximum ?? value))) fail("is out of bounds");
  if (type === "string" && !(value.length >= (schema.minLength ?? 0) && value.length <= (schema.maxLength ?? Infinity))) fail("has not the length");
  if (type === "array") {
    if (value.length < (schema.minItems ?? 0) || value.length > (schema.maxItems ?? Infinity)) fail("has not so many items");
    value.forEach((item, at) => check((schema.prefixItems ?? [])[at] ?? schema.items ?? {}, item, `${where}[${at}]`));
  }
  if (type === "object") {
    for (const name of schema.required ?? []) if (!(name in value)) fail(`lacks ${name}`);
    for (const [name, part] of Object.entries(value)) {
      const more = schema.additionalProperties;
      if (schema.properties?.[name]) check(schema.properties[name], part, `${where}.${name}`);
      else if (more === false) fail(`has ${name}`);
      else if (more) check(more, part, `${where}.${name}`);
    }
  }
  return true;
}

class Client {
  constructor(path) {
    this.socket = net.createConnection(path);
    this.msgid = 0;
    this.waiting = new Map();
    this.events = [];
    this.heard = () => {};
    this.receive();
  }

  async receive() {
    for await (const [kind, ...rest] of decodeMultiStream(this.socket)) {
      if (kind === RESPONSE) {
        const [msgid, error, result] = rest;
        this.waiting.get(msgid)(error, result);
        this.waiting.delete(msgid);
      } else if (kind === NOTIFICATION) {
        const [method, params] = rest;
        const carried = Array.isArray(params) ? params[0] : params;
        check(toolstack.notifications_to_client[method].params, carried, method);
        if (method === "event") this.events.push(carried);
        this.heard();
      }
    }
  }

  call(method, params = {}, { checked = true } = {}) {
    const told = toolstack.methods[method];
    if (checked) check(told.params, params, method);
    const msgid = this.msgid++;
    const message = [REQUEST, msgid, method, [params]];
    check(described.messages.request, message, "request");
    this.socket.write(encode(message));
    return new Promise((resolve, reject) => {
      this.waiting.set(msgid, (error, result) => {
        if (error === null) {
          check(told.answer, result, `answer of ${method}`);
          return resolve(result);
        }
        check(described.errors.schema, error, `error of ${method}`);
        return reject(error);
      });
    });
  }

  async eventNamed(name) {
    for (;;) {
      const found = this.events.find((event) => event.event === name);
      if (found) return found;
      await new Promise((resolve) => { this.heard = resolve; });
    }
  }
}

async function refusal(promise) {
  try { await promise; } catch (error) {
    if (error.errno in described.errors.errnos) return error.errno;
    throw error;
  }
  throw new Error("it was not refused");
}

async function main() {
  const client = new Client(process.argv[3]);
  const seen = {};
  seen.hello = await client.call("hello", { version: described.version });
  const superpage = 512;
  seen.before = (await client.call("list")).domains.length;
  seen.next = (await client.call("events")).next;
  seen.created = await client.call("create", { name: "made-by-node", max_pages: 4 * superpage, target_pages: 2 * superpage });
  seen.again = await refusal(client.call("create", { name: "made-by-node", max_pages: superpage, target_pages: superpage }));
  seen.nobody = await refusal(client.call("info", { domain: "nobody" }));
  seen.beyond = await refusal(client.call("set_target", { domid: "made-by-node", pages: 8 * superpage }));
  seen.wrong = await refusal(client.call("set_target", { domid: "made-by-node", pages: "many" }, { checked: false }));
  seen.target = await client.call("set_target", { domid: "made-by-node", pages: superpage });
  seen.listed = (await client.call("list")).domains.map((domain) => [domain.name, domain.target_pages, domain.state]);
  seen.event = await client.eventNamed("target");
  seen.frames = (await client.call("frames")).kind.length;
  seen.host = (await client.call("host")).superframes;
  seen.audit = (await client.call("audit")).violations;
  seen.destroyed = await client.call("destroy", { domid: seen.created.domid });
  console.log(JSON.stringify(seen));
  client.socket.end();
}

main().catch((error) => { console.error(error); process.exit(1); });
