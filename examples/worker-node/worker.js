/**
 * A media-worker in Node, as small as the contract allows: one job in, one public WebP out.
 *
 * It reads what media.process says, answers media.processed with { media_id, public_key } and no
 * more, or media.failed. docs/contract.md has the rules that the numbered comments refer to.
 */

import { webcrypto } from "node:crypto";

import amqp from "amqplib";
import { AwsClient } from "aws4fetch";
import sharp from "sharp";

const EXCHANGE = "media";
const QUEUE = "media-worker.process";
const LONGEST_SIDE = 1280;
const MAX_PIXELS = 50_000_000;

globalThis.crypto ??= webcrypto; // Node 18 has it under this name only

const { BROKER_URL, S3_ENDPOINT, S3_REGION = "us-east-1" } = process.env;
const store = new AwsClient({
  accessKeyId: process.env.S3_ACCESS_KEY_ID,
  secretAccessKey: process.env.S3_SECRET_ACCESS_KEY,
  region: S3_REGION,
  service: "s3",
  retries: 2,
});

class JobFailed extends Error {
  constructor(code, message, { retryable = false } = {}) {
    super(message);
    this.code = code;
    this.retryable = retryable;
  }
}

function urlOf(bucket, key) {
  return `${S3_ENDPOINT.replace(/\/+$/, "")}/${bucket}/${key.split("/").map(encodeURIComponent).join("/")}`;
}

/**
 * What the store may say of an original, by its own codes, and no further attempt will change. The
 * bare 404 of a proxy says nothing of the original.
 */
const FINAL_ANSWERS = { NoSuchKey: "original_missing", PreconditionFailed: "original_changed" };

/** Return the bytes that the store answers a call with. */
async function callStore(bucket, key, init, finalAnswers = {}) {
  let answer, bytes;
  try {
    answer = await store.fetch(urlOf(bucket, key), { ...init, signal: AbortSignal.timeout(30_000) });
    bytes = Buffer.from(await answer.arrayBuffer());
  } catch (error) {
    throw new JobFailed("store_unavailable", String(error), { retryable: true });
  }
  if (!answer.ok) {
    const [, said = `status ${answer.status}`] = /<Code>(\w+)<\/Code>/.exec(bytes) ?? [];
    const code = finalAnswers[said];
    throw new JobFailed(code ?? "store_unavailable", `${said} for ${key}`, { retryable: !code });
  }
  return bytes;
}

/** Return a WebP: upright, in sRGB, without EXIF; sharp drops metadata unless told to keep it. */
async function render(original) {
  try {
    return await sharp(original, { failOn: "error", limitInputPixels: MAX_PIXELS })
      .autoOrient()
      .resize({ width: LONGEST_SIDE, height: LONGEST_SIDE, fit: "inside", withoutEnlargement: true })
      .webp({ quality: 80 })
      .toBuffer();
  } catch (error) {
    throw new JobFailed("corrupt_image", error.message);
  }
}

async function work(job) {
  // 1. Read exactly the bytes that the service has accepted.
  const original = await callStore(
    job.raw_bucket,
    job.raw_key,
    { headers: { "If-Match": job.raw_etag } },
    FINAL_ANSWERS,
  );
  const image = await render(original);
  // 2. Write below public_prefix only, under a name that a repeated attempt writes again.
  const publicKey = `${job.public_prefix}main.webp`;
  await callStore(job.public_bucket, publicKey, {
    method: "PUT",
    body: image,
    headers: {
      "Content-Type": "image/webp",
      "Cache-Control": "public, max-age=31536000, immutable",
    },
  });
  return { media_id: job.media_id, public_key: publicKey };
}

async function answerTo(job) {
  try {
    return ["media.processed", await work(job)];
  } catch (error) {
    // 3. A failure names its attempt, so that it cannot end a later one; what nobody foresaw may
    // be tried again. Errors of Node have a `code`, too, and not one of the contract's.
    const isKnown = error instanceof JobFailed;
    const { code, retryable } = isKnown ? error : { code: "internal_error", retryable: true };
    const message = error.message.slice(0, 2000);
    console.error(`${job.media_id}: ${code}: ${message}`);
    const { media_id, attempt } = job;
    return ["media.failed", { media_id, attempt, error: { code, message, retryable } }];
  }
}

async function main() {
  const connection = await amqp.connect(BROKER_URL);
  const channel = await connection.createConfirmChannel();
  let unroutable = false;
  let inHand = Promise.resolve();

  async function handle(message) {
    let job;
    try {
      job = JSON.parse(message.content);
    } catch {
      channel.reject(message, false); // 4. What cannot be read goes to the dead letters.
      return;
    }
    const [routingKey, answer] = await answerTo(job);
    channel.publish(EXCHANGE, routingKey, Buffer.from(JSON.stringify(answer)), {
      contentType: "application/json",
      persistent: true,
      mandatory: true,
      messageId: message.properties.messageId,
      correlationId: message.properties.correlationId,
    });
    await channel.waitForConfirms();
    if (unroutable) {
      throw new Error("no queue takes the answer: has `flask media init` been run?");
    }
    // 5. Acknowledge last: whatever happens before this, the job is delivered again.
    channel.ack(message);
    console.log(`${job.media_id}: ${routingKey}`);
  }

  function stop() {
    // The job in hand is finished; then the connection closes, and with it the process ends.
    channel
      .cancel("worker")
      .then(() => inHand)
      .then(() => connection.close())
      .catch(crash);
  }

  channel.on("return", () => (unroutable = true));
  channel.on("error", crash);
  connection.on("error", crash);
  await channel.prefetch(1);
  await channel.consume(QUEUE, (message) => (inHand = handle(message).catch(crash)), {
    consumerTag: "worker",
  });
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
  console.log("worker_started");
}

/** End the process: whoever runs it starts it anew, and what it had in hand is delivered again. */
function crash(error) {
  console.error(error);
  process.exit(1);
}

main().catch(crash);
