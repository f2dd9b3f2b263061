// Uppy 5 and 4: its AwsS3 asks `getUploadParameters` where each file goes.
import Uppy from "@uppy/core";
import AwsS3 from "@uppy/aws-s3";

export function createUppy({ requestUpload }) {
  const uppy = new Uppy();
  uppy.use(AwsS3, {
    shouldUseMultipart: false,
    getUploadParameters: async (file) => {
      const ticket = await requestUpload(file);
      return { method: ticket.method, url: ticket.upload_url, headers: ticket.headers };
    },
  });
  return uppy;
}
